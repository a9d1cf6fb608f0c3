"""The format on disk: files, shards, plan, receipts, manifest, index, commits and garbage collection."""
