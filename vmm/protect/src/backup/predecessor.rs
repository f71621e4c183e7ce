//! The primary that hands its guest over, and waits to hear that it runs.

use replication::TakeOver;

use super::Standby;
use super::connection::Connection;

/// The connection to a primary that hands its guest over. Closed without a word, it says that the guest does not run here.
#[derive(Debug)]
pub struct Predecessor {
    connection: Connection,
    farewell: Vec<u8>,
}

impl Predecessor {
    /// The guest runs here. A primary that does not hear it asks the witness.
    pub fn tell(mut self) {
        if !self.connection.write(&self.farewell) {
            tracing::debug!("the primary that handed the guest over did not hear that it runs");
        }
        self.connection.close();
    }
}

impl Standby {
    /// Who hands over what is taken over, if somebody does and is still connected.
    pub(super) fn predecessor_of(&mut self, takeover: &TakeOver) -> Option<Predecessor> {
        let farewell = takeover.handover.as_ref()?.farewell.clone();
        Some(Predecessor { connection: self.connection.take()?, farewell })
    }
}
