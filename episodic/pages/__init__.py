"""The report of a run as a page: what is measured (`findings`), drawn (`plots`) and written (`page`)."""
