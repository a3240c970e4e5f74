"""One file for each kind of data: the columns it reads, how it becomes tokens, how it is read out of hidden states."""
