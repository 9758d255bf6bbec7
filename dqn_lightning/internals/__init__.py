"""Access to private APIs of other libraries, with one module per library."""
