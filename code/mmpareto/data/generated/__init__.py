"""Pictures and sounds that are computed, not recorded: the stand-in's, meshes from around, digits in colour."""
