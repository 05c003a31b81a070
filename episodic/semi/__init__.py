"""A learner to a learner that uses unlabeled items: one wrapper a file."""
