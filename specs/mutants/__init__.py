"""Wrong roles: each must break the property it names, or the spec has no teeth."""
