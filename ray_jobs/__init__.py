"""The work: jobs, stages, engines. Importing this package does nothing."""
