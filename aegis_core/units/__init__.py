"""What payments are told in: words of many senders, money of each currency, clocks of each place.

What comes in: texts, codes, amounts, days, places; what goes out: words, digits, rates, offsets.
"""
