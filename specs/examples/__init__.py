"""Small roles for specs that teach."""
