"""From a configuration to built objects: a task's data, a learner on its backbone, trained weights, and answers about your own
pictures.
"""
