"""The numbers that papers print, one CSV file for each suite."""
