//! Reads and writes the small objects beside copies.

use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};

use super::{NOTHING, Place, of_quarantine};
use crate::failure::{Failure, Reason, Stage, causes};
use crate::store::Store;
use crate::store::effects::refuses_condition;
use crate::store::fault::{self, Fault};
use crate::store::request::Request;

/// Nothing that is read is longer, in bytes. What we write is at most a tenth of it.
const MAX_SMALL: usize = 1024 * 1024;

impl Store {
    /// The bytes at the place; `None` where there are none or too many, or where the store does not say
    /// so for want of a right.
    ///
    /// # Errors
    /// When a later attempt may succeed.
    pub(crate) async fn read_small(&self, place: &Place) -> Result<Option<Bytes>, Failure> {
        let mut answer = match self.get_object(&place.bucket, &place.key, None).send().await {
            Ok(answer) => answer,
            Err(error) => {
                return match fault::of(Request::Get, &error) {
                    Fault::Gone | Fault::NotFound(_) | Fault::Denied(_) => Ok(None),
                    fault => Err(of_quarantine(fault.into_failure())),
                };
            }
        };
        let mut bytes = BytesMut::new();
        while let Some(chunk) = answer.body.next().await {
            let chunk = chunk.map_err(|error| {
                fault::suspect(Stage::Quarantine, Reason::BodyBroken, causes(&error))
            })?;
            if bytes.len() + chunk.len() > MAX_SMALL {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes.freeze()))
    }

    /// Writes a JSON document to the place. `absent`: only if nothing is there; what is there then is
    /// left alone.
    ///
    /// # Errors
    /// When the store does not confirm it.
    pub(crate) async fn write_small(
        &self,
        place: &Place,
        json: &Bytes,
        absent: bool,
    ) -> Result<(), Failure> {
        let put = |conditional: bool| {
            let put = self.client.put_object().bucket(&place.bucket).key(&place.key);
            put.body(ByteStream::from(json.clone()))
                .content_type("application/json")
                .set_if_none_match(conditional.then(|| NOTHING.to_owned()))
                .send()
        };
        let sent = match put(absent).await {
            // Not all stores know the condition.
            Err(error) if absent && refuses_condition(&error) => put(false).await,
            sent => sent,
        };
        match sent {
            Ok(_) => Ok(()),
            Err(error) => match fault::of(Request::Put, &error) {
                Fault::Changed if absent => Ok(()),
                fault => Err(of_quarantine(fault.into_failure())),
            },
        }
    }
}
