// The chat as a page of its own.

import { Connection } from "./connection.js";
import { Memory } from "./memory.js";
import "./view.js";

const config = JSON.parse(document.getElementById("config").textContent);
const memory = new Memory("chat.");
const connection = new Connection({ base: new URL("/", location.href), site: "", language: config.language, memory });
document.querySelector("customer-chat").setUp({ config, connection, memory, isPage: true });
