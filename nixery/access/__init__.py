"""Users, passwords, tokens and the rules for which packages a user may pull."""
