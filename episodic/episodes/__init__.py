"""Labels to indices to episodes. It needs NumPy and PyTorch only, and can be used alone."""
