"""The declarations of the settings, a module for each subject."""
