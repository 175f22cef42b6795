"""What else could do the job, each as one script: ``SHARDS DATABASE OUTPUT``. None of them is durable."""
