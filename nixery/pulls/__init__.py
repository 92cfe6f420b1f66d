"""From a tag to an image: known images, aliases and new builds."""
