//! The loop: triggers, back-off, one worker per pod.
