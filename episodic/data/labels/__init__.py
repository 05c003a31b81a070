"""Which images and labels training may see: a labeled fraction, held-out images, folds of classes."""
