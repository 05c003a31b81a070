"""From a configuration to built objects: the data of a task, a learner on its backbone, trained weights, answers to own pictures."""
