"""How fast is streamer, next to what else could do the job: ``make bench``, and README.md beside this file."""
