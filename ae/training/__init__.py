"""Training: the recipe, the loop, and what it keeps."""
