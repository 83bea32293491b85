"""Sources: folders, tables, TFDS datasets and iterables -> examples."""
