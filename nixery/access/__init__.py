"""Users, passwords, tokens and the rules of what a user may pull."""
