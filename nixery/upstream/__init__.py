"""Package sources: what a tag is resolved to, and how that is fetched."""
