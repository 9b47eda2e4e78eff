//! Tenants behind an engine whose host talks to itself, in virtual time; applications as `AppSide`s.

mod fairness;
mod hostile;
mod life;

use super::rig;
