"""What a build leaves: shards, a commit, a summary."""
