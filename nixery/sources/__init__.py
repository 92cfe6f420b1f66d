"""Package sources: channels, git repositories and paths."""
