"""A container registry that builds the images it is asked for, with Nix."""
