"""holdfast inside other libraries: a family of modules for each, loaded on demand."""
