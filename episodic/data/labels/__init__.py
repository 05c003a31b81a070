"""What each image may be seen as: a labeled share, images held out, folds of classes."""
