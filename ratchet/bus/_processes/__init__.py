"""Many processes that serve one address: a supervisor, and the workers that it keeps."""
