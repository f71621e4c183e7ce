//! The OpenAPI 3.1 document of the control interface, made from the table of verbs and the types that they name.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::verb::Description;
use crate::{Fault, verbs};

/// The document. It is the same for every VM of this version.
pub fn document() -> Value {
    // What a client may leave out, and what a server may: two views of a type, and no type is both sent and answered.
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut sent = SchemaGenerator::new(settings.clone().for_deserialize());
    let mut answered = SchemaGenerator::new(settings.for_serialize());
    let mut paths = Map::new();
    for verb in verbs::ALL {
        let path = paths.entry(verb.path).or_insert_with(|| json!({}));
        path[verb.method.as_str().to_ascii_lowercase()] = operation(verb, &mut sent, &mut answered);
    }
    let fault = answered.subschema_for::<Fault>();
    let mut schemas = sent.take_definitions(true);
    schemas.extend(answered.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Outlast",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Control of one running VM over a unix socket. One request per connection.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Fault": {
                    "description": "400 wrong request, 404 no such thing, 405 another method, 409 the VM's state forbids it, \
                        413 too long, 500 it failed, 504 it took too long",
                    "content": { "application/json": { "schema": fault } },
                },
            },
        },
    })
}

fn operation(verb: &Description, sent: &mut SchemaGenerator, answered: &mut SchemaGenerator) -> Value {
    let mut responses = (verb.responses)(answered);
    responses["default"] = json!({ "$ref": "#/components/responses/Fault" });
    let mut operation = json!({ "operationId": verb.name, "summary": verb.help, "responses": responses });
    if let Some((place, described)) = (verb.request)(sent) {
        operation[place] = described;
    }
    operation
}
