"""Training: films and a recipe in, a bundle out. Nothing imports it."""
