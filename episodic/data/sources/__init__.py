"""Readers that data sets share: tables, archives, restricted pickle, CIFAR's files."""
