//! The composition root: builds every part, hands out channels, owns start and stop order.
