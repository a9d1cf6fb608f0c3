"""Reading: the cache, row lookup, gather, soft targets, and their torch and Hugging Face faces."""
