"""TemporalVLM: long videos in clips, a sliding video Q-Former with fusion, a BiLSTM, LLaMA; answers in words."""
