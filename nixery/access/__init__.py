"""Who may pull: users and their passwords, tokens, and which packages are for whom."""
