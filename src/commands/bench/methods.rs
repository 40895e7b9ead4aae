//! The methods of the flag `--methods`.

use burn_blr::Method;

use crate::error::CommandError;

/// Dense, which is none of the methods, and the structures named; all where none is.
pub fn methods(names: &[String]) -> Result<Vec<Option<Method>>, CommandError> {
    let method = |name: &String| match name.as_str() {
        "dense" => Ok(None),
        name => name.parse().map(Some).map_err(|_| CommandError::Flag {
            flag: "methods",
            found: name.to_string(),
            expected: "dense, low-rank, monarch or blast".to_string(),
        }),
    };
    let mut methods: Vec<Option<Method>> = names.iter().map(method).collect::<Result<_, _>>()?;
    if methods.is_empty() {
        methods.push(None);
        methods.extend(Method::ALL.map(Some));
    }
    Ok(methods)
}
