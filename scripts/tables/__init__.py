"""The tables of results: one table a file, which says how its runs are made (`reproduce`) and how its rows read (`rows`)."""
