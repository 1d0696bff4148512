"""A folder of images as one page to look through."""
