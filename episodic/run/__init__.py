"""The folder of one training, and the machine that it runs on: checkpoints, curves, device and precision, features of all
images.
"""
