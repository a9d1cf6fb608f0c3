"""Reading: an open cache, its targets, lookup by sample id, and the gather."""
