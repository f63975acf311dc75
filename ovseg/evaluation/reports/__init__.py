"""What a finished run says: numbers with rules, advice, pages, comparisons."""
