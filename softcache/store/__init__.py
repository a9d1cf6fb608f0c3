"""The format on disk: files, shards, plan, receipts, manifest, index, commits, garbage collection."""
