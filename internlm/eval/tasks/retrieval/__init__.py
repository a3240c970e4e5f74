"""Future-state retrieval: does the predicted next state find the frame that came next?"""
