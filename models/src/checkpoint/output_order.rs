//! `output_order` in files: `"contiguous"` or `"interleaved"`, absent where it does not apply.

use burn_blr::OutputOrder;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Writes the name of the order.
pub(crate) fn serialize<S: Serializer>(
    order: &Option<OutputOrder>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    order.map(OutputOrder::as_str).serialize(serializer)
}

/// Reads the name of an order.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<OutputOrder>, D::Error> {
    let name: Option<String> = Option::deserialize(deserializer)?;
    name.map(|name| name.parse().map_err(D::Error::custom))
        .transpose()
}
