"""Dataset in, dataset out: one verb a file. Stages never import one another."""
