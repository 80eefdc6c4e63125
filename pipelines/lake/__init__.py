"""The lake: files of rows, which of them count, and what keeps them whole."""
