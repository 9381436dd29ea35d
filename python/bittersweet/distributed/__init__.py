"""One decision over many ranks: which part of a tensor a rank holds, and the rounds of sums that decide."""
