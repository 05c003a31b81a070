"""Readers that data sets share: tables, restricted pickle, CIFAR's files."""
