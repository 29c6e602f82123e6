"""
Notifications, decided: which news is sent to whom, when, and in which words.

Facts about the fleet become signals, signals with one cause become one message.
Nothing is sent from here, and nothing read: the controller does that.
"""
